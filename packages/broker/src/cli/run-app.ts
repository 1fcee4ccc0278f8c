import { mkdtempSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { formatAddress } from '../config/index.ts'
import { parseAddress } from '../config/address.ts'
import type { Command } from './command.ts'
import { logicalFolder, throughLinks } from '../master/working-folder.ts'
import { UsageError } from './terminal.ts'

/** The service of the app that `baton run` runs. */
const SERVICE = 'app'

export const runApp: Command = {
  name: 'run',
  operands: [],
  rest: 'CMD...',
  summary: 'run an app behind a broker of its own, as it is',
  details: [
    'Runs N processes of a Node app that knows nothing of Baton, in the foreground: where the app calls listen(port), a',
    'broker listens instead, and gives each connection to one of them. A process that dies is replaced. `baton deploy app`',
    'with the configuration file that it prints replaces all of them, one after the other, and no client notices; with --watch',
    'each change of a file does. Everything behind `--` is the command: baton run -i 2 -- node server.js',
  ].join('\n'),
  options: {
    instances: {
      short: 'i',
      value: 'N',
      help: 'so many processes, or "max": one for each processor (default: 1)',
    },
    listen: { value: 'ADDR', help: 'listen there, whatever the app asks for' },
    watch: { help: 'deploy anew when a file in this folder changes' },
  },
  async run({ rest, values, switches }, terminal) {
    if (rest.length === 0)
      throw new UsageError('run needs the command of the app: baton run -- node server.js')
    const listen = values.get('listen')
    const address = listen === undefined ? undefined : parseAddress(listen)
    if (typeof address === 'string') throw new UsageError(`--listen: ${address}`)
    const { runMaster } = await import('../master/main.ts')
    const { GIVEN_LISTENER } = await import('../master/opened-ports.ts')
    const folderOfApp = logicalFolder(process.env, process.cwd())
    const folder = mkdtempSync(join(tmpdir(), 'baton-run-'))
    const file = join(folder, 'baton.json')
    const listener = (name: string, where: string) => ({
      name,
      listen: where,
      protocol: 'http',
      service: SERVICE,
    })
    const config = {
      runtimeDir: folder,
      admin: { listen: `unix:${join(folder, 'admin.sock')}` },
      listeners: [
        // There is always one, also before the app listens; handy for a look from this machine.
        listener('local', `unix:${join(folder, 'app.sock')}`),
        ...(address === undefined ? [] : [listener(GIVEN_LISTENER, formatAddress(address))]),
      ],
      services: {
        [SERVICE]: {
          command: rest,
          // Not by getcwd(2): a deploy follows the link through which the folder was entered.
          cwd: folderOfApp,
          instances: instancesOf(values.get('instances') ?? '1'),
          env: {
            BATON_MASTER_SOCKET: join(folder, 'master.sock'),
            NODE_OPTIONS: [process.env['NODE_OPTIONS'], `--import=${preload()}`].filter(Boolean).join(' '),
          },
        },
      },
    }
    writeFileSync(file, `${JSON.stringify(config, undefined, 2)}\n`)
    terminal.out(`to replace the app's processes: baton deploy ${SERVICE} --config ${file}`)
    return runMaster({
      file,
      warn: () => {},
      signals: process,
      exit: (code) => process.exit(code),
      run: { claims: {}, watch: switches.has('watch') ? process.cwd() : null, folder },
    })
  },
}

function instancesOf(text: string): number {
  if (text === 'max') return availableParallelism()
  const instances = Number(text)
  if (Number.isInteger(instances) && instances >= 1 && instances <= 1024) return instances
  throw new UsageError(`--instances: ${JSON.stringify(text)} is neither a number of processes nor "max"`)
}

/** As an URL: the path may have spaces, which NODE_OPTIONS takes for an end. */
function preload(): string {
  const file = fileURLToPath(import.meta.resolve('@baton/backend-sdk/register'))
  const cwd = process.cwd()
  return pathToFileURL(throughLinks(file, logicalFolder(process.env, cwd), cwd)).href
}
