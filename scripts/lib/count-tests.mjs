// Reads the closing lines of test runners. Invariant: each runner's summary is counted once, and a line that merely
// speaks of tests counts nothing, because every pattern is anchored to the runner's own form of the line.

const forms = [
  // cargo test and wasm-bindgen-test-runner
  /^test result: \w+\. (?<passed>\d+) passed; (?<failed>\d+) failed;/,
  // node --test: TAP when piped ("# pass 3"), the spec reporter otherwise ("ℹ pass 3")
  /^(?:#|ℹ) pass (?<passed>\d+)$/,
  /^(?:#|ℹ) (?:fail|cancelled) (?<failed>\d+)$/,
  // our own runners
  /^(?:\w+: )?(?<passed>\d+) passed, (?<failed>\d+) failed(?:, \d+ skipped)?$/,
]

/** The tests passed and failed according to a log; colour codes are ignored. */
export function countTests(log) {
  const sum = { passed: 0, failed: 0 }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the escape character is what starts a colour code
  for (const line of log.replace(/\u001b\[[0-9;]*m/g, '').split(/\r?\n/)) {
    for (const form of forms) {
      const found = form.exec(line)
      if (!found) continue
      sum.passed += Number(found.groups.passed ?? 0)
      sum.failed += Number(found.groups.failed ?? 0)
      break
    }
  }
  return sum
}
