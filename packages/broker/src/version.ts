import { readFileSync } from 'node:fs'

const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
  version: string
}

/** Version of the `@baton/broker` package, shown by `baton --version`, status and `baton_build_info`. */
export const BROKER_VERSION = manifest.version
