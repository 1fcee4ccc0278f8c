// Bundles the entry points of the package in the working directory into `dist/bundle/`, after `tsc` has checked it. A program that
// loads a few files starts several times sooner than one that loads hundreds (docs/internals/decisions/0019-bundles.md). The
// code is not minified: stack traces stay readable.
//
// The package's manifest says what is bundled: `"bundle": { "NAME": "src/ENTRY.ts" }` becomes `dist/bundle/NAME.js`.
// `@baton/native-sendmsg` stays outside: it finds koffi from its own folder, and has state that a process must have once. The
// dependencies that are bundled are named, with their licences, in `dist/bundle/THIRD-PARTY-NOTICES.txt`.
import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'

const manifest = JSON.parse(readFileSync('package.json', 'utf8'))
// Built aside: a build that is interrupted leaves the one before.
const outdir = 'dist/bundle-next'
rmSync(outdir, { recursive: true, force: true })
const { metafile } = await build({
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
  external: ['koffi', '@baton/native-sendmsg', ...Object.keys(manifest.peerDependencies ?? {})],
  // From their sources: the SDK's own bundle shares files between its entry points.
  alias: Object.fromEntries(
    ['protocol/index', 'duration'].map((file) => [
      `@baton/backend-sdk/${file.split('/')[0]}`,
      join(import.meta.dirname, `../packages/backend-sdk/src/${file}.ts`),
    ]),
  ),
  // Bundled CommonJS packages call `require` for Node's modules.
  banner: {
    js: "import { createRequire as requireOf } from 'node:module'; const require = requireOf(import.meta.url);",
  },
  plugins: [
    {
      name: 'parts of prom-client',
      setup(building) {
        // prom-client needs the first for exemplars, and has the second to push. Baton does neither, and loading them takes as long as all the
        // rest of prom-client.
        building.onResolve(
          { filter: /^(@opentelemetry\/api|\.\/lib\/pushgateway)$/ },
          ({ path, importer }) =>
            importer.includes('/prom-client/') ? { path, namespace: 'absent' } : undefined,
        )
        building.onLoad({ filter: /./, namespace: 'absent' }, () => ({ contents: 'module.exports = {}' }))
      },
    },
  ],
  logLevel: 'warning',
})

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
