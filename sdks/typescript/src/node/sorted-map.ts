// An ordered map with text keys: blocks of sorted keys, so that an insertion moves a few hundred places at most.
//
// Invariant: no block is empty but the only one; keys ascend within blocks and from one block to the next. Keys are
// bytes as text, one byte a character, so their order is that of the bytes.

const BLOCK = 512

interface Block<V> {
  keys: string[]
  values: V[]
}

/** The map; see the module's comment. */
export class SortedMap<V> {
  private blocks: Block<V>[] = [{ keys: [], values: [] }]
  /** How many entries. */
  size = 0

  /** The first place whose key is not below `key`: block and place in it. */
  private find(key: string): [number, number] {
    let low = 0
    let high = this.blocks.length
    while (low < high) {
      const middle = (low + high) >>> 1
      const { keys } = this.blocks[middle] as Block<V>
      if (keys.length > 0 && (keys[keys.length - 1] as string) < key) low = middle + 1
      else high = middle
    }
    const block = this.blocks[low]
    if (block === undefined) return [low, 0]
    let from = 0
    let to = block.keys.length
    while (from < to) {
      const middle = (from + to) >>> 1
      if ((block.keys[middle] as string) < key) from = middle + 1
      else to = middle
    }
    return [low, from]
  }

  /** The value of a key. */
  get(key: string): V | undefined {
    const [at, place] = this.find(key)
    const block = this.blocks[at]
    return block !== undefined && block.keys[place] === key ? block.values[place] : undefined
  }

  /** Sets a key and gives the value that it had. */
  set(key: string, value: V): V | undefined {
    let [at, place] = this.find(key)
    if (at === this.blocks.length) {
      at -= 1
      place = (this.blocks[at] as Block<V>).keys.length
    }
    const block = this.blocks[at] as Block<V>
    if (block.keys[place] === key) {
      const old = block.values[place]
      block.values[place] = value
      return old
    }
    block.keys.splice(place, 0, key)
    block.values.splice(place, 0, value)
    this.size++
    if (block.keys.length > BLOCK) {
      // Keys mostly come in ascending order: a block that grows at its end stays nearly full.
      const cut = place === block.keys.length - 1 ? BLOCK - 8 : BLOCK >>> 1
      this.blocks.splice(at + 1, 0, { keys: block.keys.splice(cut), values: block.values.splice(cut) })
    }
    return undefined
  }

  /** Removes a key and gives the value that it had. */
  delete(key: string): V | undefined {
    const [at, place] = this.find(key)
    const block = this.blocks[at]
    if (block === undefined || block.keys[place] !== key) return undefined
    const old = block.values[place]
    block.keys.splice(place, 1)
    block.values.splice(place, 1)
    this.size--
    if (block.keys.length === 0 && this.blocks.length > 1) this.blocks.splice(at, 1)
    return old
  }

  /** The entries from `from` (inclusive) to `to` (exclusive), ascending. The map must not change meanwhile. */
  *range(from: string | undefined, to: string | undefined): Generator<[string, V]> {
    let [at, place] = from === undefined ? [0, 0] : this.find(from)
    for (; at < this.blocks.length; at++, place = 0) {
      const { keys, values } = this.blocks[at] as Block<V>
      for (; place < keys.length; place++) {
        const key = keys[place] as string
        if (to !== undefined && key >= to) return
        yield [key, values[place] as V]
      }
    }
  }

  /** The same entries, descending. */
  *reverse(from: string | undefined, to: string | undefined): Generator<[string, V]> {
    let [at, place] = to === undefined ? [this.blocks.length, 0] : this.find(to)
    for (;;) {
      place -= 1
      while (place < 0) {
        at -= 1
        if (at < 0) return
        place = (this.blocks[at] as Block<V>).keys.length - 1
      }
      const { keys, values } = this.blocks[at] as Block<V>
      const key = keys[place] as string
      if (from !== undefined && key < from) return
      yield [key, values[place] as V]
    }
  }
}
