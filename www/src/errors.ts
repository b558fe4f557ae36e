// Shows an error where it arose, whole: message, hint, code and SQLSTATE, and the way to its place in the text.
// Invariant: every error of the page ends here, in the box beside what failed; none is only logged.

import { KalamError } from 'kalamdb'
import { el } from './dom'

/** Where an error is, in the text that people see, and how to get there. */
export interface Place {
  line: number
  column: number
  go(): void
}

/** Fills `box` with an error, or empties it; `place` becomes a button, `actions` follow it. */
export function showError(box: HTMLElement, error: unknown, place?: Place, ...actions: HTMLElement[]): void {
  if (error === undefined) {
    box.replaceChildren()
    return
  }
  const known = error instanceof KalamError ? error : undefined
  const message = error instanceof Error ? error.message : String(error)
  box.replaceChildren(
    el(
      'div',
      { class: 'error', role: 'alert' },
      el('p', { class: 'error-message' }, message),
      known?.hint ? el('p', { class: 'error-hint' }, known.hint) : undefined,
      el(
        'p',
        { class: 'error-facts' },
        known ? el('span', { class: 'error-code' }, known.code) : undefined,
        known ? el('span', {}, `SQLSTATE ${known.sqlstate}`) : undefined,
        place
          ? el(
              'button',
              { class: 'link', type: 'button', onclick: place.go },
              `line ${place.line}, column ${place.column}`,
            )
          : undefined,
        ...actions,
      ),
    ),
  )
}
