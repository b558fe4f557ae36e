// The rows that every engine gets. Invariant: a row is a function of its number, so all engines hold the same data
// and their answers can be compared.

/** How many owners there are: 20 rows each among 20 000. */
export const OWNERS = 1000

/** A row: five columns as an app has them. */
export const row = id => ({
  id,
  owner: id % OWNERS,
  city: id % 100,
  price: ((id * 7919) % 100_000) / 100,
  name: `item number ${id} of the shop`,
})

export const rows = (from, to) => Array.from({ length: to - from }, (_, i) => row(from + i))

/** A row as SQLite's and PGlite's parameters. */
export const values = r => [r.id, r.owner, r.city, r.price, r.name]
