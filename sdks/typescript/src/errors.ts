// The one error class of the SDK.
//
// Invariant: whatever goes wrong behind a public call reaches the caller as a `KalamError`. Errors cross the worker
// boundary as plain objects (`KalamErrorInit`) and are revived on the caller's side, so `instanceof` holds there.

/** A place in the SQL text of a request. */
export interface Position {
  /** Line, counted from 1. */
  line: number
  /** Column in characters, counted from 1. */
  column: number
}

/** The plain form of a {@link KalamError}: what crosses a thread boundary and what `toJSON()` gives. */
export interface KalamErrorInit {
  /** Stable code, e.g. `TABLE_NOT_FOUND`. */
  code: string
  /** The five-character SQLSTATE that PostgreSQL would give. Derived from a code of the SDK when left out. */
  sqlstate?: string | undefined
  /** What was found and what was expected. */
  message: string
  /** What would help, if known. */
  hint?: string | undefined
  /** Where in the SQL text, if known. */
  position?: Position | undefined
  /** Whether the same call may succeed when it is made again. */
  retryable?: boolean | undefined
  /** What caused it, e.g. the reason of an `AbortSignal`. */
  cause?: unknown
}

/** Codes that the SDK raises by itself. They carry the names and SQLSTATEs of the engine's `ErrorCode`. */
const SDK_CODES: Record<string, { sqlstate: string; retryable?: true }> = {
  FEATURE_NOT_SUPPORTED: { sqlstate: '0A000' },
  COLUMN_NOT_FOUND: { sqlstate: '42703' },
  INVALID_NAME: { sqlstate: '42602' },
  INVALID_OPTION: { sqlstate: '22023' },
  DATATYPE_MISMATCH: { sqlstate: '42804' },
  INVALID_TEXT_REPRESENTATION: { sqlstate: '22P02' },
  NUMERIC_VALUE_OUT_OF_RANGE: { sqlstate: '22003' },
  INVALID_DATETIME: { sqlstate: '22007' },
  WRONG_DIMENSION: { sqlstate: '22000' },
  PARAMETER_TYPE: { sqlstate: '42804' },
  INVALID_DATA: { sqlstate: '22000' },
  OUT_OF_MEMORY: { sqlstate: '53200' },
  ACTIVE_TRANSACTION: { sqlstate: '25001' },
  NO_ACTIVE_TRANSACTION: { sqlstate: '25P01' },
  CANCELLED: { sqlstate: '57014' },
  TIMEOUT: { sqlstate: '57014', retryable: true },
  DATABASE_NOT_FOUND: { sqlstate: '3D000' },
  DATABASE_LOCKED: { sqlstate: '55006', retryable: true },
  QUOTA_EXCEEDED: { sqlstate: '53100' },
  STORAGE_ERROR: { sqlstate: '58030', retryable: true },
  STORAGE_CLOSED: { sqlstate: '58000', retryable: true },
  DATA_CORRUPTED: { sqlstate: 'XX001' },
  UNSUPPORTED_FORMAT: { sqlstate: '58P01' },
  CONNECTION_CLOSED: { sqlstate: '08003' },
  CONNECTION_FAILED: { sqlstate: '08001', retryable: true },
  INTERNAL_ERROR: { sqlstate: 'XX000' },
}

/**
 * Every failure of KalamDB: an error of the engine (syntax, a missing table, a duplicate key, …) or of the SDK
 * itself (a parameter of the wrong type, a lost worker). Never a bare string, never a panic text.
 */
export class KalamError extends Error {
  /** Stable code, e.g. `TABLE_NOT_FOUND`, `UNIQUE_VIOLATION`, `DATABASE_LOCKED`, `TIMEOUT`. Compare this one. */
  readonly code: string
  /** The five-character SQLSTATE that PostgreSQL would give, e.g. `42P01`. */
  readonly sqlstate: string
  /** What would help, if known. */
  readonly hint: string | undefined
  /** Where in the SQL text, if known. */
  readonly position: Position | undefined
  /** Whether the same call may succeed when it is made again. */
  readonly retryable: boolean

  /** Builds an error from its plain form. */
  constructor(init: KalamErrorInit) {
    super(init.message, init.cause === undefined ? undefined : { cause: init.cause })
    const known = SDK_CODES[init.code]
    this.code = init.code
    this.sqlstate = init.sqlstate ?? known?.sqlstate ?? 'XX000'
    this.hint = init.hint
    this.position = init.position
    this.retryable = init.retryable ?? known?.retryable ?? false
  }

  /**
   * The error itself if it is a `KalamError`, a revived one if it is the plain form of one, and otherwise an
   * `INTERNAL_ERROR` that keeps the original as its `cause`.
   */
  static from(error: unknown): KalamError {
    if (error instanceof KalamError) return error
    if (isPlainKalamError(error)) return new KalamError(error)
    const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error)
    return new KalamError({ code: 'INTERNAL_ERROR', message, cause: error })
  }

  /** The plain form: it survives `structuredClone`, `postMessage` and `JSON.stringify`. */
  toJSON(): KalamErrorInit & { name: 'KalamError' } {
    const plain: KalamErrorInit & { name: 'KalamError' } = {
      name: 'KalamError',
      code: this.code,
      sqlstate: this.sqlstate,
      message: this.message,
      retryable: this.retryable,
    }
    if (this.hint !== undefined) plain.hint = this.hint
    if (this.position !== undefined) plain.position = { line: this.position.line, column: this.position.column }
    return plain
  }
}
// On the prototype, so that `name` is right without being an own property of every error.
Object.defineProperty(KalamError.prototype, 'name', { value: 'KalamError', configurable: true, writable: true })

function isPlainKalamError(error: unknown): error is KalamErrorInit {
  if (typeof error !== 'object' || error === null) return false
  const { name, code, message } = error as Record<string, unknown>
  return name === 'KalamError' && typeof code === 'string' && typeof message === 'string'
}
