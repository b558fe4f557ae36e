// Reads the runnable parts of a Markdown file. Invariant: a block is part of the tour only when its info string says so
// ("js tour"), and what it must print stands in the "text" block right behind it, so that nothing is run by accident and
// no expected output is forgotten in silence.

/** The fenced blocks of a Markdown text: `{ info, code, line }`, the line being the first one of the code. */
export function fencedBlocks(markdown) {
  const blocks = []
  let open
  markdown.split(/\r?\n/).forEach((text, at) => {
    const fence = /^ {0,3}(`{3,}|~{3,})\s*(.*?)\s*$/.exec(text)
    if (open) {
      if (fence && fence[2] === '' && fence[1].startsWith(open.fence)) {
        blocks.push({ info: open.info, code: open.lines.join('\n'), line: open.line })
        open = undefined
      } else open.lines.push(text)
    } else if (fence) open = { fence: fence[1], info: fence[2], lines: [], line: at + 2 }
  })
  if (open) throw new Error(`the fenced block at line ${open.line - 1} is never closed`)
  return blocks
}

/** The steps of the tour: `{ code, line, expected? }`. */
export function tourSteps(markdown) {
  const blocks = fencedBlocks(markdown)
  return blocks.flatMap((block, at) => {
    if (block.info !== 'js tour') return []
    const next = blocks[at + 1]
    return [{ code: block.code, line: block.line, expected: next?.info === 'text' ? next.code.trim() : undefined }]
  })
}

/** One module that runs all steps, printing `mark` and the step's number after each: steps see each other's names. */
export function tourModule(steps, mark) {
  return steps.map((step, at) => `${step.code}\nconsole.log(${JSON.stringify(`${mark}${at}`)})\n`).join('')
}

/** Per step what it printed, or undefined when it did not come to its end. */
export function outputsOf(stdout, count, mark) {
  const outputs = []
  let rest = stdout
  for (let at = 0; at < count; at++) {
    const end = rest.indexOf(`${mark}${at}\n`)
    if (end < 0) return [...outputs, ...Array(count - at).fill(undefined)]
    outputs.push(rest.slice(0, end).trim())
    rest = rest.slice(end + `${mark}${at}\n`.length)
  }
  return outputs
}

/** The make targets that the shell blocks of a Markdown text tell the reader to type. */
export function makeTargets(markdown) {
  const targets = new Set()
  for (const { info, code } of fencedBlocks(markdown)) {
    if (!/^(sh|bash|shell|console)\b/.test(info)) continue
    for (const [, target] of code.matchAll(/(?:^|&&|;)\s*(?:\$ )?make ([a-z-]+)/gm)) targets.add(target)
  }
  return [...targets]
}
