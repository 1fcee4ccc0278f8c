import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** Stripped files, by the hash of their source: the compiler costs each process more than most tests. */
const CACHE = fileURLToPath(new URL('../../.cache/stripped/', import.meta.url))
mkdirSync(CACHE, { recursive: true })

/** A loader hook, see https://nodejs.org/api/module.html#loadurl-context-nextload */
export async function load(url, context, nextLoad) {
  if (!url.endsWith('.ts')) return nextLoad(url, context)
  return { format: 'module', source: await stripped(fileURLToPath(url)), shortCircuit: true }
}

async function stripped(filename) {
  const source = readFileSync(filename, 'utf8')
  const kept = CACHE + createHash('sha256').update(source).digest('hex')
  try {
    return readFileSync(kept, 'utf8')
  } catch {
    const { transformSync } = await import('@swc/wasm-typescript')
    const { code } = transformSync(source, { filename, mode: 'strip-only', module: true })
    // Renamed, because other processes read it.
    writeFileSync(`${kept}.${process.pid}`, code)
    renameSync(`${kept}.${process.pid}`, kept)
    return code
  }
}
