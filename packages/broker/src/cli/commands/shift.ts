import { locateRuntimeDir } from '../../config/file.ts'
import { parseShare, SHARE_EXPECTED } from '../../config/share.ts'
import { VERSION, VERSION_EXPECTED } from '../../config/version.ts'
import { codeIn } from '../../errors.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { askMaster } from '../../ipc/operator-client.ts'
import { UsageError } from '../output/terminal.ts'
import { CommandError, DONE, FAILED, USAGE } from '../../exit-codes.ts'
import { SUMMARIES } from '../summaries.ts'

const UNKNOWN = 'BATON_ERR_UNKNOWN_SERVICE'

export const shift: Command = {
  name: 'shift',
  operands: ['SERVICE'],
  summary: SUMMARIES.shift,
  details: [
    'New connections of the service go to backends of this version with this share, and to its other backends with the rest. A',
    'client stays on its side while the share does; when the share grows, only the difference moves (see `sticky`). While a side',
    'has no ready backend, the other one gets its clients. In force until changed or ended, also over reloads.',
  ].join('\n'),
  options: {
    to: { value: 'VERSION', help: 'version that its backends report (BATON_VERSION)' },
    share: { value: 'N%', help: 'its share: 0% to 100%' },
    off: { help: 'end the shift: all backends are chosen alike' },
    ...configOption,
  },
  async run({ operands, values, switches }, terminal) {
    const [service = ''] = operands
    if (/\s/.test(service)) throw new UsageError(`${JSON.stringify(service)} is not a valid service name`)
    const order = switches.has('off')
      ? withoutShift(values)
      : `to=${versionOf(values)} share=${shareOf(values)}`
    const runtimeDir = locateRuntimeDir(values.get('config') ?? DEFAULT_CONFIG)
    const { success, log } = await askMaster(runtimeDir, `shift ${service} ${order}`)
    if (!success) {
      const code = codeIn(log[0] ?? '')
      throw new CommandError(log.join('\n'), { exitCode: code === UNKNOWN ? USAGE : FAILED, code })
    }
    for (const line of log) terminal.out(line)
    return DONE
  },
}

function withoutShift(values: ReadonlyMap<string, string>): string {
  if (values.has('to') || values.has('share')) throw new UsageError('--off goes without --to and --share')
  return 'off'
}

function versionOf(values: ReadonlyMap<string, string>): string {
  const to = values.get('to')
  if (to === undefined) throw new UsageError('shift needs --to VERSION and --share N%, or --off')
  if (!VERSION.test(to)) throw new UsageError(`--to: ${VERSION_EXPECTED}`)
  return to
}

function shareOf(values: ReadonlyMap<string, string>): string {
  const share = values.get('share')
  if (share === undefined) throw new UsageError('shift needs --share N%')
  if (parseShare(share) === undefined)
    throw new UsageError(`--share: ${JSON.stringify(share)}: ${SHARE_EXPECTED}`)
  return share
}
