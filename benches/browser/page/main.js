// What run.mjs calls from outside.
import { statements } from './statements.js'
import * as storage from './storage.js'

window.bench = { statements, ...storage }
