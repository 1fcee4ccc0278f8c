// Bundles the entry points of the package in the working directory into `dist/bundle/`, after `tsc` has checked it. A program that
// loads a few files starts several times sooner than one that loads hundreds (docs/internals/decisions/0019-bundles.md). The
// code is not minified: stack traces stay readable.
//
// The package's manifest says what is bundled: `"bundle": { "NAME": "src/ENTRY.ts" }` becomes `dist/bundle/NAME.js`.
// `@baton/native-sendmsg` stays outside: it finds ffi-rs from its own folder, and has state that a process must have once. The
// dependencies that are bundled are named, with their licences, in `dist/bundle/THIRD-PARTY-NOTICES.txt`.
import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'
import { inOneFile } from './shared-modules.mjs'
import { takeBuiltins } from './take-builtins.mjs'

const ABSENT =
  /^(@opentelemetry\/api|\.\/lib\/pushgateway|@fastify\/ajv-compiler|@fastify\/fast-json-stringify-compiler|light-my-request)$/
const EAGER = "exports.collectDefaultMetrics = require('./lib/defaultMetrics');"
const LAZY =
  "Object.defineProperty(exports, 'collectDefaultMetrics', { enumerable: true, get: () => require('./lib/defaultMetrics') });"

const manifest = JSON.parse(readFileSync('package.json', 'utf8'))
// Built aside: a build that is interrupted leaves the one before.
const outdir = 'dist/bundle-next'

/** Options of all builds of this package. */
const options = {
  entryPoints: Object.entries(manifest.bundle).map(([out, entry]) => ({ in: entry, out })),
  outdir,
  bundle: true,
  splitting: true,
  chunkNames: 'chunks/[name]-[hash]',
  format: 'esm',
  platform: 'node',
  target: 'node20.18',
  sourcemap: 'linked',
  sourcesContent: false,
  metafile: true,
  external: ['ffi-rs', '@baton/native-sendmsg', ...Object.keys(manifest.peerDependencies ?? {})],
  // From their sources: the SDK's own bundle shares files between its entry points.
  alias: Object.fromEntries(
    ['protocol/index', 'duration'].map((file) => [
      `@baton/backend-sdk/${file.split('/')[0]}`,
      join(import.meta.dirname, `../packages/backend-sdk/src/${file}.ts`),
    ]),
  ),
  // Bundled CommonJS packages call `require` for Node's modules, and for nothing else.
  banner: { js: 'const require = (name) => process.getBuiltinModule(name);' },
  plugins: [
    {
      name: 'parts that are not needed',
      setup(building) {
        // prom-client needs the first for exemplars, and has the second to push. Fastify's compilers are for routes with JSON schemas, and
        // light-my-request is for tests. Baton has none of that, and loading it takes longer than all the rest of both.
        building.onResolve({ filter: ABSENT }, ({ path, importer }) =>
          /\/(?:prom-client|fastify)\//.test(importer) ? { path, namespace: 'absent' } : undefined,
        )
        building.onLoad({ filter: /./, namespace: 'absent' }, () => ({ contents: 'module.exports = {}' }))
        // Only a worker measures its own process.
        building.onLoad({ filter: /\/prom-client\/index\.js$/ }, ({ path }) => {
          const text = readFileSync(path, 'utf8')
          if (!text.includes(EAGER)) throw new Error(`${path} is not as expected`)
          return { contents: text.replace(EAGER, LAZY) }
        })
      },
    },
  ],
  logLevel: 'warning',
}

rmSync(outdir, { recursive: true, force: true })
const plugins = [...options.plugins]
// Its programs are Baton's own. Users' tools bundle the other packages, and leave out what they do not need.
if (manifest.bin !== undefined) plugins.push(inOneFile((await build({ ...options, write: false })).metafile))
const { metafile } = await build({ ...options, plugins })

// Not the SDK: it is part of users' processes, whose tools may replace what is imported.
if (manifest.name !== '@baton/backend-sdk') takeBuiltins(outdir)

/** Folders of the bundled dependencies. */
const folders = new Set(
  Object.keys(metafile.inputs)
    .map((file) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file)?.[0])
    .filter((folder) => folder !== undefined),
)
const notices = [...folders].toSorted().map((folder) => {
  const { name, version, license } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry))
  return `${name} ${version} (${license})\n\n${file === undefined ? '' : readFileSync(join(folder, file), 'utf8').trim()}\n`
})
if (notices.length > 0)
  writeFileSync(join(outdir, 'THIRD-PARTY-NOTICES.txt'), notices.join(`\n${'-'.repeat(78)}\n\n`))

rmSync('dist/bundle', { recursive: true, force: true })
renameSync(outdir, 'dist/bundle')
