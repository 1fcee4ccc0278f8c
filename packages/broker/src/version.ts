import { readFileSync } from 'node:fs'

const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
  version: string
}

/** Of the `@baton/broker` package: `baton --version`, status, and `baton_build_info`. */
export const BROKER_VERSION = manifest.version
