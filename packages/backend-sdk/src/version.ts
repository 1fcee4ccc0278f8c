import { readFileSync } from 'node:fs'

const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
  version: string
}

/** Name and version of this package, as sent in HELLO. */
export const SDK_VERSION = `@baton/backend-sdk/${manifest.version}`
