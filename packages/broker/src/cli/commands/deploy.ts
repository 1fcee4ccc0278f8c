import { parseDuration } from '../../config/duration.ts'
import { parseShare, SHARE_EXPECTED } from '../../config/share.ts'
import { locateRuntimeDir } from '../../config/file.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { askMaster, masterStatus } from '../../ipc/operator-client.ts'
import type { CommandResult } from '../../ipc/operator-protocol.ts'
import { printable } from '../../log/printable.ts'
import { type Terminal, UsageError } from '../output/terminal.ts'
import { DONE, FAILED, USAGE } from '../../exit-codes.ts'
import { SUMMARIES } from '../summaries.ts'

/** Nothing was tried: Baton runs no such service, there are no two versions to compare, or the environment cannot be read. */
const REFUSED =
  /\((?:BATON_ERR_UNKNOWN_SERVICE|BATON_ERR_NOT_MANAGED|BATON_ERR_NO_CANARY|BATON_ERR_ENV_FILE)\)$/

export const deploy: Command = {
  name: 'deploy',
  operands: ['SERVICE'],
  summary: SUMMARIES.deploy,
  details: [
    'Starts a new process for each instance, waits until it has been ready for minHealthy, moves new connections to it,',
    'drains the old process and stops it. If a new process fails, the remaining old ones stay, and the exit code is 1. After a',
    'change of command, env or cwd, run `baton reload` first. In a terminal, a bar shows the step that it waits for.',
    '',
    'With --canary, the first new processes get this share of the new connections for some time. The deploy goes on if their',
    'failures, health and health checks are no worse than those of the old version. Otherwise they are drained, and the exit',
    'code is 1. Needs another BATON_VERSION in `env`; if it is the one that runs already, the exit code is 2.',
    '',
    'With --env, the variables of a file override `env`: the one in `envFiles`, or .env.NAME in `cwd`. They stay in force until the',
    'next deploy, which needs --env again. If the file cannot be read, the exit code is 2.',
  ].join('\n'),
  options: {
    'at-once': { value: 'N', help: 'instances to replace at a time (default: 1)' },
    canary: { value: 'N%', help: 'try the new version with this share of the new connections first' },
    for: { value: 'DURATION', help: 'how long, such as 10m' },
    env: { value: 'NAME', help: 'environment, such as production' },
    abort: { help: 'return to the old version, during a deploy or after one that failed half-way' },
    ...configOption,
  },
  async run({ operands, values, switches }, terminal) {
    const [service = ''] = operands
    if (/\s/.test(service)) throw new UsageError(`${JSON.stringify(service)} is not a valid service name`)
    const atOnce = values.get('at-once') ?? '1'
    if (!/^[1-9]\d{0,3}$/.test(atOnce))
      throw new UsageError(`--at-once: ${JSON.stringify(atOnce)} must be a number from 1 to 9999`)
    const canary = canaryOf(values)
    if (canary.length > 0 && switches.has('abort')) throw new UsageError('--abort goes without --canary')
    const environment = values.get('env')
    if (environment !== undefined && switches.has('abort')) throw new UsageError('--abort goes without --env')
    if (environment !== undefined && !/^\S+$/.test(environment))
      throw new UsageError(`--env: ${JSON.stringify(environment)} is no name of an environment`)
    const env = environment === undefined ? [] : [`env=${environment}`]
    const how = switches.has('abort') ? ['abort'] : [`at-once=${atOnce}`, ...canary, ...env]
    const command = ['deploy', service, ...how].join(' ')
    const runtimeDir = locateRuntimeDir(values.get('config') ?? DEFAULT_CONFIG)
    const { success, log } = await askShowing(runtimeDir, service, command, terminal)
    for (const line of log) {
      if (success) terminal.out(line)
      else terminal.err(line)
    }
    if (success) return DONE
    return REFUSED.test(log[0] ?? '') ? USAGE : FAILED
  },
}

/** Shows the progress: as lines, and in a terminal with a bar below them. */
async function askShowing(
  runtimeDir: string,
  service: string,
  command: string,
  terminal: Terminal,
): Promise<CommandResult> {
  const { display } = terminal
  if (display === undefined) return askMaster(runtimeDir, command, (line) => terminal.out(line))
  const { DeployBar } = await import('../deploy-bar.ts')
  const { managed = [] } = (await masterStatus(runtimeDir)) ?? {}
  const instances = new Set(managed.filter((each) => each.service === service).map((each) => each.instance))
  const bar = new DeployBar(instances.size, display.output)
  try {
    return await askMaster(runtimeDir, command, (line) => bar.push(printable(line)))
  } finally {
    bar.end()
  }
}

/** @throws UsageError */
function canaryOf(values: ReadonlyMap<string, string>): string[] {
  const [canary, time] = [values.get('canary'), values.get('for')]
  if (canary === undefined) {
    if (time !== undefined) throw new UsageError('--for goes with --canary')
    return []
  }
  const share = parseShare(canary)
  if (share === undefined || share === 0)
    throw new UsageError(`--canary: ${JSON.stringify(canary)}: ${SHARE_EXPECTED}, above 0%`)
  if (time === undefined) throw new UsageError('--canary needs --for DURATION')
  const ms = parseDuration(time)
  if (ms === undefined || ms === 0)
    throw new UsageError(`--for: ${JSON.stringify(time)} is not a duration such as 30s, 10m or 1h`)
  return [`canary=${canary}`, `for=${time}`]
}
