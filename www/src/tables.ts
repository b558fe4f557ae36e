// The side bar's list of tables and columns, as information_schema tells it.
// Invariant: it is read anew after every statement that may have changed it, and only the newest reading is shown.

import type { Database } from 'kalamdb'
import { byId, el } from './dom'
import { showError } from './errors'
import { quoteName } from './sql'

interface ColumnRow extends Record<string, unknown> {
  table_schema: string
  table_name: string
  column_name: string
  data_type: string
  is_nullable: string | boolean
}

const tablesSql = `SELECT table_schema, table_name FROM information_schema.tables
WHERE table_schema NOT IN ('information_schema', 'system') ORDER BY table_schema, table_name`
const columnsSql = `SELECT table_schema, table_name, column_name, data_type, is_nullable FROM information_schema.columns
WHERE table_schema NOT IN ('information_schema', 'system') ORDER BY table_schema, table_name, ordinal_position`

let reading = 0

/** Reads the tables and lists them; `onQuery` gets the SQL name of a table that is clicked. Returns their SQL names. */
export async function showTables(db: Database, onQuery: (table: string) => void): Promise<string[]> {
  const box = byId('tables')
  const mine = ++reading
  try {
    const [tables, columns] = await Promise.all([
      db.query<{ table_schema: string; table_name: string }>(tablesSql),
      db.query<ColumnRow>(columnsSql),
    ])
    const names = tables.map(one => nameOf(one.table_schema, one.table_name))
    if (mine !== reading) return names
    const open = new Set([...box.querySelectorAll('details[open]')].map(one => one.getAttribute('data-table')))
    const items = tables.map((one, at) => {
      const name = names[at] ?? ''
      const details = el(
        'details',
        { 'data-table': name },
        el(
          'summary',
          {},
          el('span', { class: 'table-name' }, name),
          el('button', { class: 'quiet query', type: 'button', 'aria-label': `Query ${name}` }, 'Query'),
        ),
        el(
          'ul',
          { class: 'columns' },
          ...columns
            .filter(column => column.table_schema === one.table_schema && column.table_name === one.table_name)
            .map(column =>
              el(
                'li',
                {},
                el('span', { class: 'column-name' }, column.column_name),
                el(
                  'span',
                  { class: 'column-type' },
                  `${column.data_type}${/^(no|false)$/i.test(String(column.is_nullable)) ? ' NOT NULL' : ''}`,
                ),
              ),
            ),
        ),
      )
      details.open = open.has(name) || (open.size === 0 && tables.length <= 2)
      details.querySelector('button')?.addEventListener('click', event => {
        event.preventDefault()
        onQuery(name)
      })
      return details
    })
    box.replaceChildren(...(items.length > 0 ? items : [el('p', { class: 'note' }, 'No tables yet.')]))
    return names
  } catch (error) {
    if (mine === reading) showError(box, error)
    return []
  }
}

function nameOf(schema: string, table: string): string {
  return schema === 'default' ? quoteName(table) : `${quoteName(schema)}.${quoteName(table)}`
}
