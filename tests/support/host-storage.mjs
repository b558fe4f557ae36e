// Puts the storage of tests/host_conformance.rs into the global scope; scripts/host-test.sh has Node import this first.

import { join } from 'node:path'

const { KALAM_HOST_STORAGE, KALAM_HOST_FOLDER } = process.env
const files = () => import(`file://${KALAM_HOST_STORAGE}`)

globalThis.kalamOpenStorage = async name => (await files()).openFiles(join(KALAM_HOST_FOLDER, name))
globalThis.kalamDeleteStorage = async name => (await files()).deleteFiles(join(KALAM_HOST_FOLDER, name))
