// The SQL editor: a textarea over a coloured copy of its text.
//
// Invariant: the copy below holds the same characters in the same font and wrapping, so the caret and the colours
// stay together without measuring anything; the textarea grows with the copy and the box around both scrolls.
// All editing is the browser's own: undo, selection, input methods and screen readers work as anywhere.

import { byId } from './dom'
import type { Place } from './errors'
import { offsetOf, spanAt, tokenize } from './sql'

export interface Editor {
  /** The whole text. */
  text: string
  /** What Run should run: the selection if there is one, with its offset in the text. */
  readonly target: { sql: string; offset: number }
  /** Marks an error (line and column from 1, within the part that begins at `offset`); gives its place in the text. */
  mark(offset: number, part: string, position: { line: number; column: number }): Place
  focus(): void
}

export function createEditor(onRun: () => void, onEdit: () => void): Editor {
  const area = byId<HTMLTextAreaElement>('sql')
  const paint = byId<HTMLPreElement>('editor-paint')
  let marked: { start: number; end: number } | undefined

  const render = () => {
    const parts: Node[] = []
    for (const token of tokenize(area.value)) {
      const end = token.start + token.text.length
      if (marked && marked.start < end && marked.end > token.start) {
        const from = Math.max(marked.start - token.start, 0)
        const to = Math.min(marked.end, end) - token.start
        if (from > 0) parts.push(span(token.kind, token.text.slice(0, from)))
        const error = span(token.kind, token.text.slice(from, to))
        error.classList.add('wrong')
        parts.push(error)
        if (to < token.text.length) parts.push(span(token.kind, token.text.slice(to)))
      } else if (token.kind === 'space' || token.kind === 'word' || token.kind === 'sign') {
        parts.push(document.createTextNode(token.text))
      } else {
        parts.push(span(token.kind, token.text))
      }
    }
    // A trailing line break only takes room when something follows it.
    paint.replaceChildren(...parts, document.createTextNode('\u200b'))
  }

  area.addEventListener('input', () => {
    marked = undefined
    render()
    onEdit()
  })
  area.addEventListener('keydown', event => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault()
      onRun()
    }
  })
  render()

  return {
    get text() {
      return area.value
    },
    set text(value: string) {
      area.value = value
      marked = undefined
      render()
      onEdit()
    },
    get target() {
      const { selectionStart: start, selectionEnd: end } = area
      const chosen = area.value.slice(start, end)
      return chosen.trim() ? { sql: chosen, offset: start } : { sql: area.value, offset: 0 }
    },
    mark(offset, part, position) {
      const span = spanAt(part, offsetOf(part, position.line, position.column)) ?? { start: 0, end: 0 }
      const [start, end] = [offset + span.start, offset + span.end]
      marked = { start, end }
      render()
      paint.querySelector('.wrong')?.scrollIntoView({ block: 'nearest' })
      const before = area.value.slice(0, start).split('\n')
      return {
        line: before.length,
        column: [...(before.at(-1) ?? '')].length + 1,
        go() {
          area.focus()
          area.setSelectionRange(start, end)
        },
      }
    },
    focus() {
      area.focus()
    },
  }
}

function span(kind: string, text: string): HTMLSpanElement {
  const element = document.createElement('span')
  element.className = `t-${kind}`
  element.textContent = text
  return element
}
