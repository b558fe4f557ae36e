// Reads SQL text just far enough for an editor: tokens to colour, statements to run one by one.
//
// Invariant: the tokens of a text, joined, are the text again, whatever the text (an open quote or comment reaches
// to its end). So colouring can never change what is shown, and an offset in a statement plus the statement's start
// is an offset in the text. What the statements mean is the engine's business alone.

export type TokenKind = 'keyword' | 'string' | 'number' | 'comment' | 'quoted' | 'parameter' | 'word' | 'space' | 'sign'

export interface Token {
  kind: TokenKind
  text: string
  start: number
}

const keywords = new Set(
  `ADD ALL ALTER ANALYZE AND AS ASC BEGIN BETWEEN BY CASE CAST COLUMN COMMIT CONFLICT CREATE CROSS CURRENT DEFAULT DELETE DESC
  DESCRIBE DISTINCT DO DROP ELSE END ESCAPE EXCEPT EXECUTE EXISTS EXPLAIN FALSE FILTER FIRST FOLLOWING FOR FROM FULL GROUP
  HAVING IF ILIKE IN INDEX INNER INSERT INTERSECT INTERVAL INTO IS JOIN KEY LAST LATERAL LEFT LIKE LIMIT NAMESPACE NATURAL NOT
  NOTHING NULL NULLS OFFSET ON OR ORDER OUTER OVER PARTITION PRECEDING PREPARE PRIMARY RANGE RECURSIVE REPLACE RETURNING RIGHT
  ROLLBACK ROW ROWS SELECT SET SHARED SHOW STORAGE STREAM SUBSCRIBE TABLE TABLES THEN TO TRUE UNBOUNDED UNION UNIQUE UPDATE
  USE USER USING VALUES VIEW WHEN WHERE WINDOW WITH BIGINT BOOLEAN BYTES DATE DATETIME DECIMAL DOUBLE EMBEDDING FLOAT INT JSON
  SMALLINT TEXT TIME TIMESTAMP UUID`.split(/\s+/),
)

// One alternative per kind, in order; `s` and `y`: dots cross lines, each match starts where the last one ended.
const pattern = new RegExp(
  [
    '(?<space>\\s+)',
    '(?<comment>--[^\\n]*|/\\*(?:(?!\\*/).)*(?:\\*/|$))',
    "(?<string>[eExXbB]?'(?:[^']|'')*(?:'|$))",
    '(?<quoted>"(?:[^"]|"")*(?:"|$))',
    '(?<parameter>\\$\\w+)',
    '(?<number>(?:\\d[\\d_]*\\.?\\d*|\\.\\d+)(?:[eE][+-]?\\d+)?)',
    '(?<word>[\\p{L}_][\\p{L}\\p{N}_$]*)',
    '(?<sign>.)',
  ].join('|'),
  'suy',
)

export function tokenize(text: string): Token[] {
  const tokens: Token[] = []
  pattern.lastIndex = 0
  let start = 0
  while (start < text.length) {
    pattern.lastIndex = start
    const match = pattern.exec(text)
    // The last alternative takes any character, so there is always a match.
    const found = match?.[0] ?? text.slice(start, start + 1)
    const group = Object.entries(match?.groups ?? {}).find(([, value]) => value !== undefined)?.[0] ?? 'sign'
    const kind = group === 'word' && keywords.has(found.toUpperCase()) ? 'keyword' : (group as TokenKind)
    tokens.push({ kind, text: found, start })
    start += found.length
  }
  return tokens
}

/** One statement of a text, with the offset at which it starts. */
export interface Statement {
  sql: string
  start: number
  /** Whether it gives rows, as far as its words tell. */
  rows: boolean
  /** Whether it may change which tables there are, or what they hold. */
  changes: boolean
  /** Whether it is a query without a LIMIT of its own. */
  unlimited: boolean
}

const rowWords = new Set(['SELECT', 'WITH', 'VALUES', 'TABLE', 'EXPLAIN', 'SHOW', 'DESCRIBE', 'DESC'])
const queryWords = new Set(['SELECT', 'WITH', 'VALUES'])

export function splitStatements(text: string): Statement[] {
  const statements: Statement[] = []
  let current: Token[] = []
  const flush = () => {
    const meant = current.filter(token => token.kind !== 'space' && token.kind !== 'comment')
    const first = meant[0]
    const last = meant[meant.length - 1]
    current = []
    if (!first || !last) return
    const words = topLevelWords(meant)
    const head = words[0] ?? ''
    const returning = words.includes('RETURNING')
    const writes = words.some(word => word === 'INSERT' || word === 'UPDATE' || word === 'DELETE')
    const query = queryWords.has(head) && !(head === 'WITH' && writes)
    statements.push({
      sql: text.slice(first.start, last.start + last.text.length),
      start: first.start,
      rows: returning || (rowWords.has(head) && !(head === 'WITH' && writes)) || first.text === '(',
      changes: !rowWords.has(head) || (head === 'WITH' && writes),
      unlimited: query && !words.some(word => word === 'LIMIT' || word === 'FETCH' || word === 'OFFSET'),
    })
  }
  for (const token of tokenize(text)) {
    if (token.kind === 'sign' && token.text === ';') flush()
    else current.push(token)
  }
  flush()
  return statements
}

function topLevelWords(tokens: Token[]): string[] {
  let depth = 0
  const words: string[] = []
  for (const token of tokens) {
    if (token.text === '(') depth++
    else if (token.text === ')') depth--
    else if (depth === 0 && (token.kind === 'word' || token.kind === 'keyword')) words.push(token.text.toUpperCase())
  }
  return words
}

/** The offset of a line and a column (both from 1, columns in characters) in a text; at most its length. */
export function offsetOf(text: string, line: number, column: number): number {
  const lines = text.split('\n')
  if (line > lines.length) return text.length
  const before = lines.slice(0, line - 1).reduce((sum, part) => sum + part.length + 1, 0)
  const characters = [...(lines[line - 1] ?? '')]
  return before + characters.slice(0, column - 1).join('').length
}

/** The span that an error at `offset` should mark: the token there, or the last one when the offset is the end. */
export function spanAt(text: string, offset: number): { start: number; end: number } | undefined {
  const tokens = tokenize(text).filter(token => token.kind !== 'space' && token.kind !== 'comment')
  const token = tokens.find(one => offset < one.start + one.text.length) ?? tokens[tokens.length - 1]
  if (!token) return undefined
  // Inside a long literal the position itself is more telling than the whole.
  const start = Math.max(token.start, Math.min(offset, token.start + token.text.length - 1))
  return { start, end: token.start + token.text.length }
}

/** A name as SQL needs it written. */
export function quoteName(name: string): string {
  return /^[a-z_][a-z0-9_]*$/.test(name) && !keywords.has(name.toUpperCase()) ? name : `"${name.replaceAll('"', '""')}"`
}
