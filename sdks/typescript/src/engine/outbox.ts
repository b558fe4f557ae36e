// What one side of a link has to say to the other.
//
// Invariant: messages leave in the order in which they were put in, each once, at the end of the turn at the latest.
// Those of one turn leave as one list: one message between threads is as much work as a hundred.

/** Messages of one turn; see the module's comment. */
export class Outbox<Message> {
  private messages: Message[] = []
  /** Buffers that change hands with the message of the same place. */
  private transfers: Transferable[][] = []
  private gathering = false

  /**
   * @param post sends one message or a list of them, or throws and sends nothing
   * @param refused told about a message that cannot be sent, which does not keep the others
   */
  constructor(
    private readonly post: (messages: Message | readonly Message[], transfer: Transferable[]) => void,
    private readonly refused: (message: Message, cause: unknown) => void,
  ) {}

  /** Puts a message in. */
  put(message: Message, transfer: Transferable[] = []): void {
    this.transfers.push(transfer)
    if (this.messages.push(message) === 1 && !this.gathering) queueMicrotask(() => this.flush())
  }

  /** Does a piece of work and sends what it has put in as it ends: sooner than the turn, and without its queue. */
  gather(work: () => void): void {
    if (this.gathering) {
      work()
      return
    }
    const queued = this.messages.length > 0
    this.gathering = true
    try {
      work()
    } finally {
      this.gathering = false
      if (!queued) this.flush()
    }
  }

  /** Sends what is there. */
  flush(): void {
    const { messages, transfers } = this
    if (messages.length === 0) return
    this.messages = []
    this.transfers = []
    if (messages.length > 1) {
      try {
        this.post(messages, transfers.flat())
        return
      } catch {
        // One of them cannot be sent, and nothing was: each by itself tells which.
      }
    }
    for (let i = 0; i < messages.length; i++) {
      const message = messages[i] as Message
      try {
        this.post(message, transfers[i] as Transferable[])
      } catch (cause) {
        this.refused(message, cause)
      }
    }
  }
}
