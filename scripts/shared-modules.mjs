import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'

/** Bytes of output. */
const SMALL = 8000
/** Modules of Node's that every program has anyway. */
const LOADED = new Set(['node:fs', 'node:path', 'node:util'])
const NAME = 'baton:shared'

/**
 * esbuild makes a file of those modules that the same programs load. So a small module that many programs load becomes a file of its own, and to
 * find and link it takes longer than to run it. These are the modules which had better be in one file that all programs load.
 *
 * @param metafile esbuild's, of a build without that file
 * @returns their sources, from the working directory
 */
function sharedModules({ outputs }) {
  const small = new Map(
    Object.entries(outputs).filter(
      ([file, { entryPoint, bytes, inputs }]) =>
        file.endsWith('.js') &&
        entryPoint === undefined &&
        bytes < SMALL &&
        Object.keys(inputs).every((input) => input.startsWith('src/')),
    ),
  )
  // A file that loads others loads only light ones.
  const isLight = ({ path, external }) =>
    external === true ? LOADED.has(path) : small.has(path) || Object.keys(outputs[path].inputs).length === 0
  let before
  do {
    before = small.size
    for (const [file, { imports }] of small) if (!imports.every(isLight)) small.delete(file)
  } while (small.size < before)
  return [...small.values()].flatMap(({ inputs }) => Object.keys(inputs)).toSorted()
}

/**
 * Everything that is loaded as a whole, entry points and what is imported on demand; but not an entry point that has work to do before it loads
 * anything.
 *
 * @returns their sources, from the working directory
 */
function programs({ outputs }) {
  return Object.values(outputs)
    .filter(
      ({ entryPoint, imports }) =>
        entryPoint?.startsWith('src/') === true && imports.some(({ kind }) => kind === 'import-statement'),
    )
    .map(({ entryPoint }) => entryPoint)
}

/** A plugin of esbuild's that makes one file of the shared modules. */
export function inOneFile(metafile) {
  const modules = sharedModules(metafile)
  const loaders = new Set(programs(metafile).map((file) => resolve(file)))
  return {
    name: 'shared modules in one file',
    setup(building) {
      building.onResolve({ filter: new RegExp(`^${NAME}$`) }, ({ path }) => ({ path, namespace: NAME }))
      building.onLoad({ filter: /./, namespace: NAME }, () => ({
        contents: modules.map((file) => `import './${file}'`).join('\n'),
        resolveDir: process.cwd(),
      }))
      // On the line of the first statement: the lines of a source map stay right.
      building.onLoad({ filter: /\.ts$/ }, ({ path }) =>
        loaders.has(path)
          ? { contents: `import '${NAME}'; ${readFileSync(path, 'utf8').replace(/^#!/, '//')}`, loader: 'ts' }
          : undefined,
      )
    },
  }
}
