import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const IMPORT = /^import ([^"';]*?) from "(node:[^"]+)";$/gm
const NAMES = /^(?:([\w$]+)(?:, )?)?(\{[^}]*\}|\* as ([\w$]+))?$/

/**
 * Takes Node's modules from `process.getBuiltinModule` in bundled files, instead of importing them: an import reads every property of the
 * module, and some of them load more (`fs.promises`, `fs.ReadStream`, WebSocket and fetch behind `http`). Lines stay where they are, for the
 * source maps.
 */
export function takeBuiltins(folder) {
  for (const file of readdirSync(folder, { recursive: true })) {
    if (!file.endsWith('.js')) continue
    const path = join(folder, file)
    const text = readFileSync(path, 'utf8').replaceAll(IMPORT, (whole, what, name) => {
      const [, all, names, namespace] = NAMES.exec(what) ?? []
      if (all === undefined && names === undefined) throw new Error(`${path}: ${whole}`)
      const taken = `process.getBuiltinModule("${name}")`
      const parts = []
      if (all !== undefined) parts.push(`${all} = ${taken}`)
      if (namespace !== undefined) parts.push(`${namespace} = ${taken}`)
      else if (names !== undefined) parts.push(`${names.replaceAll(' as ', ': ')} = ${taken}`)
      return `const ${parts.join(', ')};`
    })
    writeFileSync(path, text)
  }
}
