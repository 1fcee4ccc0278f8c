// Writes the generated parts of docs/reference/configuration.md from the published JSON Schema.
// `--check`: writes nothing, and fails if the page differs.
//
// `<!-- all keys -->` begins the table of all keys. `<!-- keys: PATH... -->` begins the entries of each PATH and the keys
// below it, except those that another part names more precisely; without a PATH, of all remaining keys. So no key is omitted.
import { readFileSync, writeFileSync } from 'node:fs'

const page = new URL('../docs/reference/configuration.md', import.meta.url)
const schemaFile = new URL('../packages/broker/baton.schema.json', import.meta.url)
const KINDS = '#kinds-of-values'

/** The objects that a value may be or contain: itself, its items, or values under user-defined names. */
function* objectsIn(node, path) {
  for (const option of node.anyOf ?? [node]) {
    if (option.properties) yield [option, path]
    if (option.items) yield* objectsIn(option.items, `${path}[]`)
    if (option.additionalProperties) yield* objectsIn(option.additionalProperties, `${path}.*`)
  }
}

function keysBelow(node, path = '') {
  return [...objectsIn(node, path)].flatMap(([object, prefix]) =>
    Object.entries(object.properties).flatMap(([name, child]) => {
      const key = prefix === '' ? name : `${prefix}.${name}`
      const required = object.required?.includes(name) === true
      return [
        { path: key, node: child, required, section: prefix === '' && isParent(child) },
        ...keysBelow(child, key),
      ]
    }),
  )
}

function isParent(node) {
  return !objectsIn(node, '').next().done
}

/** In words; kinds that the page explains become links. */
function valueOf(node) {
  const options = node.anyOf ?? [node]
  const least = options.find(({ type }) => type === 'integer' || type === 'number')
  const words = options.map((option) => {
    if (option.type === 'null') return '`null`'
    const isKind = option.title !== undefined && option !== node
    return option.anyOf === undefined && !isKind ? plain(option) : valueOf(option)
  })
  if (node.title === undefined) return words.join(' or ')
  const kind = `[${node.title}](${KINDS})`
  if (words.includes('`null`')) return `${kind} or \`null\``
  if (!(least?.minimum > 0)) return kind
  return `${kind}, at least ${node.title === 'size' ? `${least.minimum / 1024} KiB` : `${least.minimum} ms`}`
}

function plain(node) {
  switch (node.type) {
    case 'string':
      return node.enum ? inWords(node.enum.map((value) => `\`${value}\``)) : 'string'
    case 'boolean':
      return '`true` or `false`'
    case 'integer':
      return `whole number${range(node)}`
    case 'number':
      return `number${range(node)}`
    case 'array':
      return `array of ${node.minItems === 1 ? 'one or more ' : ''}${plural(node.items)}`
    case 'object': {
      if (!node.additionalProperties) return 'object'
      const kind = node.propertyNames?.title
      const by = kind === undefined ? '' : ` by [${kind}](${KINDS})`
      return `object of ${node.minProperties === 1 ? 'one or more ' : ''}${plural(node.additionalProperties)}${by}`
    }
    default:
      throw new Error(`no words for ${JSON.stringify(node)}`)
  }
}

function plural(node) {
  return valueOf(node).replace(/^whole number|^number|^string|^object/, '$&s')
}

function range({ minimum, exclusiveMinimum, maximum }) {
  // The largest safe integer is not a limit of Baton's.
  const most = maximum === Number.MAX_SAFE_INTEGER ? undefined : maximum
  if (exclusiveMinimum !== undefined) return ` above ${exclusiveMinimum}, at most ${most}`
  return most === undefined ? `, at least ${minimum}` : ` from ${minimum} to ${most}`
}

function inWords(list) {
  if (list.length === 1) return list[0]
  return `${list.slice(0, -1).join(', ')} or ${list.at(-1)}`
}

function defaultOf({ node, required }) {
  if (required) return 'required'
  return node.default === undefined ? '' : `\`${JSON.stringify(node.default)}\``
}

/** The anchor that GitHub derives from the heading. */
function anchorOf({ path }) {
  return `#${path.toLowerCase().replaceAll(/[^a-z0-9_-]/g, '')}`
}

function tableOf(keys) {
  const rows = keys.map(
    (key) => `| [\`${key.path}\`](${anchorOf(key)}) | ${valueOf(key.node)} | ${defaultOf(key)} |`,
  )
  return ['| key | value | default |', '| --- | --- | --- |', ...rows].join('\n')
}

/** The page has a hand-written heading for each top-level object; all other keys get theirs here. */
function entryOf(key) {
  const { path, node, required, section } = key
  if (!node.description) throw new Error(`${path} has no description in the schema`)
  const standing = required || node.default === undefined ? defaultOf(key) : `default ${defaultOf(key)}`
  const facts = [valueOf(node), standing].filter(Boolean)
  const description = wrapped(node.description)
  if (section) return `${[`\`${path}\``, ...facts].join(' · ')}\n\n${description}`
  return `#### \`${path}\`\n\n${facts.join(' · ')}\n\n${description}`
}

/** For reading in a terminal. */
function wrapped(text) {
  return text.replaceAll(/(.{1,120})(?: |$)/g, '$1\n').trimEnd()
}

/** The most specific of the `named` paths that contain `path`. */
function homeOf(path, named) {
  const fitting = named.filter(
    (name) =>
      path === name || name === '' || (/^[.[]/.test(path.slice(name.length)) && path.startsWith(name)),
  )
  return fitting.toSorted((a, b) => a.length - b.length).at(-1)
}

const PART = /(<!-- keys:(.*) -->\n)[^]*?(<!-- end -->)/g
const ALL = /(<!-- all keys -->\n)[^]*?(<!-- end -->)/

const keys = keysBelow(JSON.parse(readFileSync(schemaFile, 'utf8')))
const before = readFileSync(page, 'utf8')
const pathsOf = (list) => (list.trim() === '' ? [''] : list.trim().split(' '))
const named = [...before.matchAll(PART)].flatMap(([, , list]) => pathsOf(list))
const unknown = named.filter((name) => name !== '' && !keys.some(({ path }) => path === name))
if (unknown.length > 0) throw new Error(`the schema has no ${unknown.join(', ')}`)
if (!ALL.test(before))
  throw new Error('docs/reference/configuration.md has no place for the table of all keys')
const kinds = new Set([...JSON.stringify(keys).matchAll(/"title":"([^"]+)"/g)].map(([, title]) => title))
for (const kind of kinds)
  if (!before.includes(`\n- **${kind}**: `))
    throw new Error(`docs/reference/configuration.md does not explain ${kind}`)
const homeless = keys.filter(({ path }) => homeOf(path, named) === undefined)
if (homeless.length > 0) throw new Error(`no part has ${homeless.map(({ path }) => path).join(', ')}`)

const after = before
  .replace(ALL, (_, begin, end) => `${begin}\n${tableOf(keys)}\n\n${end}`)
  .replace(PART, (_, begin, list, end) => {
    const wanted = pathsOf(list)
    const entries = keys.filter(({ path }) => wanted.includes(homeOf(path, named))).map(entryOf)
    return `${begin}\n${entries.join('\n\n')}\n\n${end}`
  })
if (!process.argv.includes('--check')) writeFileSync(page, after)
else if (after !== before) {
  console.error('docs/reference/configuration.md differs from the schema: npm run docs')
  process.exit(1)
}
