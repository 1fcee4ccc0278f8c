import { closeSync, existsSync, openSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { errnoOf } from '../../config/error.ts'
import { CommandError, DONE } from '../../exit-codes.ts'
import { DEFAULT_CONFIG, type Command } from '../command.ts'
import { UsageError } from '../output/terminal.ts'
import { SUMMARIES } from '../summaries.ts'

export const init: Command = {
  name: 'init',
  operands: [],
  summary: SUMMARIES.init,
  details: [
    'Looks at package.json for the command that starts the app, asks for what it cannot know, and writes baton.json. Then prints the lines',
    'that the app needs, and the next command. With --yes, or without a terminal, it asks nothing. A baton.json that is there stays,',
    'unless --force is given.',
  ].join('\n'),
  options: {
    listen: { value: 'ADDR', help: 'address for clients (default: 127.0.0.1:8080)' },
    yes: { short: 'y', help: 'ask nothing' },
    force: { help: `replace a ${DEFAULT_CONFIG} that is there` },
  },
  async run({ switches, values }, terminal) {
    const isForced = switches.has('force')
    if (!isForced && existsSync(DEFAULT_CONFIG)) throw isThere()
    const app = inspect(process.cwd())
    const listen = values.get('listen')
    if (listen !== undefined) await checkAddress(listen)
    const found: Answers = {
      command: app.command ?? ['node', 'server.js'],
      listen: listen ?? '127.0.0.1:8080',
    }
    const isInteractive = !switches.has('yes') && process.stdin.isTTY && terminal.display !== undefined
    const answers = isInteractive ? await ask(found) : found
    write(configOf(app, answers), isForced)
    for (const line of nextSteps(app, answers)) terminal.out(line)
    return DONE
  },
}

interface App {
  /** Of the service. */
  readonly service: string
  readonly isModule: boolean
  /** Undefined: nothing says how the app is started. */
  readonly command: readonly string[] | undefined
  readonly hasSchema: boolean
  readonly hasSdk: boolean
}

/** Whether a file of the command has the lines that an app needs already. */
function usesSdk(command: readonly string[]): boolean {
  return command.some((word) => {
    if (!/\.[cm]?[jt]s$/.test(word)) return false
    try {
      return readFileSync(word, 'utf8').includes('@baton/backend-sdk')
    } catch {
      // It may be made by a build that has not run yet.
      return false
    }
  })
}

interface Answers {
  readonly command: readonly string[]
  readonly listen: string
}

/** Files that are started where package.json names none. */
const USUAL_FILES = ['server.js', 'index.js', 'app.js', 'server.mjs', 'index.mjs', 'server.cjs', 'main.js']

/** @throws {CommandError} package.json is there, and cannot be read */
function inspect(folder: string): App {
  const manifest = readManifest(join(folder, 'package.json'))
  const { type, main, scripts } = manifest
  const usual = [main, ...USUAL_FILES].find(
    (file): file is string => typeof file === 'string' && existsSync(join(folder, file)),
  )
  return {
    service: 'web',
    isModule: type === 'module',
    command: commandOf(Object(scripts).start) ?? (usual === undefined ? undefined : ['node', usual]),
    hasSchema: existsSync(join(folder, 'node_modules/@baton/broker/baton.schema.json')),
    hasSdk: existsSync(join(folder, 'node_modules/@baton/backend-sdk/package.json')),
  }
}

function readManifest(file: string): { type?: unknown; main?: unknown; scripts?: unknown } {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return {}
    throw new CommandError(`${file} cannot be read (${errnoOf(error) ?? String(error)})`)
  }
  try {
    return Object(JSON.parse(text))
  } catch {
    throw new CommandError(`${file} is not JSON`)
  }
}

/** A start script that is one program with plain words is run without npm, which would be one process more. Any other is left to npm. */
function commandOf(script: unknown): readonly string[] | undefined {
  if (typeof script !== 'string' || script.trim() === '') return undefined
  const words = script.trim().split(/\s+/)
  const isPlain = words.every((word) => /^[\w@%+:,./=-]+$/.test(word)) && !words[0]?.includes('=')
  return isPlain && words[0] === 'node' ? words : ['npm', 'start']
}

/** @throws {UsageError} */
async function checkAddress(text: string): Promise<void> {
  const { parseAddress } = await import('../../config/address.ts')
  const problem = parseAddress(text)
  if (typeof problem === 'string') throw new UsageError(`--listen: ${problem}`)
}

async function ask({ command, listen }: Answers): Promise<Answers> {
  const { parseAddress } = await import('../../config/address.ts')
  const { createInterface } = await import('node:readline/promises')
  const lines = createInterface({ input: process.stdin, output: process.stdout })
  try {
    const start = (await lines.question(`Command that starts the app (${command.join(' ')}): `)).trim()
    for (;;) {
      const address = (await lines.question(`Address for clients (${listen}): `)).trim() || listen
      const problem = parseAddress(address)
      if (typeof problem !== 'string')
        return { command: start === '' ? command : start.split(/\s+/), listen: address }
      process.stdout.write(`${problem}\n`)
    }
  } finally {
    lines.close()
  }
}

function configOf({ service, hasSchema }: App, { command, listen }: Answers): string {
  const config = {
    ...(hasSchema && { $schema: './node_modules/@baton/broker/baton.schema.json' }),
    listeners: [{ name: service, listen, service }],
    services: { [service]: { command, instances: 2 } },
  }
  return `${JSON.stringify(config, undefined, 2)}\n`
}

/** @throws {CommandError} */
function write(text: string, isForced: boolean): void {
  let fd: number
  try {
    fd = openSync(DEFAULT_CONFIG, isForced ? 'w' : 'wx')
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') throw isThere()
    throw new CommandError(`${DEFAULT_CONFIG} cannot be written (${errnoOf(error) ?? String(error)})`)
  }
  try {
    writeSync(fd, text)
  } finally {
    closeSync(fd)
  }
}

function isThere(): CommandError {
  return new CommandError(`${DEFAULT_CONFIG} is there already; --force replaces it`)
}

function nextSteps(
  { service, isModule, command: known, hasSdk }: App,
  { command, listen }: Answers,
): string[] {
  const load = isModule
    ? ["import { createBackend } from '@baton/backend-sdk'"]
    : ["const { createBackend } = require('@baton/backend-sdk')"]
  const ready = isModule ? 'await backend.ready()' : 'backend.ready()'
  const lines = [
    'Where the app calls server.listen(), it needs these lines instead:',
    '',
    ...load.map((line) => `  ${line}`),
    '  const backend = createBackend()',
    '  backend.attach(server)',
    `  ${ready}`,
    "  process.once('SIGTERM', () => void backend.drain())",
    '',
  ]
  const url = listen.startsWith('unix:') ? listen : `http://${listen}/`
  return [
    `wrote ${DEFAULT_CONFIG}: two processes of "${command.join(' ')}", service ${service}, clients at ${url}`,
    ...(known === undefined ? ['nothing says how the app is started: check "command"'] : []),
    '',
    ...(usesSdk(command) ? [] : lines),
    ...(hasSdk ? [] : ['Install the package first: npm install @baton/backend-sdk', '']),
    'Then:',
    '',
    '  npx baton start',
  ]
}
