// Small helpers to build and find elements.
// Invariant: text only ever enters the page as text nodes and attributes, never as markup.

type Child = Node | string | undefined

/** The element of that id; the page's own markup guarantees it is there. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const element = document.getElementById(id)
  if (!element) throw new Error(`no element #${id}`)
  return element as T
}

/** An element with attributes and children; `undefined` children are left out. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string | (() => void)> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(name.replace(/^on/, ''), value)
    else element.setAttribute(name, value)
  }
  element.append(...children.filter(child => child !== undefined))
  return element
}
