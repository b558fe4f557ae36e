// Points in time with microseconds: what a Date cannot hold.
//
// Invariant: a TIMESTAMP or DATETIME goes out of the engine and back in without loss. A value of whole milliseconds is
// a plain Date, because that is what people's code expects and it costs least; any other is a Timestamp, which is a
// Date too (rounded down to milliseconds) and knows the rest.

const MICROS_PER_MS = 1000n
/** The last moment of a Date. */
const MAX_DATE_MS = 8.64e15

/** A point in time to the microsecond. As a `Date` it is rounded down to milliseconds. */
export class Timestamp extends Date {
  /** Microseconds since 1970-01-01T00:00:00Z. */
  readonly epochMicroseconds: bigint

  /**
   * @param epochMicroseconds microseconds since 1970-01-01T00:00:00Z
   */
  constructor(epochMicroseconds: bigint) {
    super(Number(floorDiv(epochMicroseconds, MICROS_PER_MS)))
    this.epochMicroseconds = epochMicroseconds
  }

  /** ISO 8601 with six digits: `2026-01-02T03:04:05.123456Z`. JSON.stringify writes this too. */
  override toISOString(): string {
    const rest = this.epochMicroseconds - floorDiv(this.epochMicroseconds, MICROS_PER_MS) * MICROS_PER_MS
    return `${super.toISOString().slice(0, -1)}${String(rest).padStart(3, '0')}Z`
  }
}

/** Microseconds since the epoch; `undefined` for an invalid date. */
export function microsecondsOf(date: Date): bigint | undefined {
  const ms = date.getTime()
  if (date instanceof Timestamp) {
    const own = Number(floorDiv(date.epochMicroseconds, MICROS_PER_MS))
    // A Timestamp reaches further than a Date. And a Date's setters work on a Timestamp as well: after
    // one of them the Date is what was meant.
    if (own === ms || (Number.isNaN(ms) && Math.abs(own) > MAX_DATE_MS)) return date.epochMicroseconds
  }
  return Number.isNaN(ms) ? undefined : BigInt(ms) * MICROS_PER_MS
}

/** Division of integers that rounds down. */
export function floorDiv(a: bigint, b: bigint): bigint {
  const q = a / b
  return a % b < 0n ? q - 1n : q
}
