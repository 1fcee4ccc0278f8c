import { localAddress, NativeError } from '@baton/native-sendmsg'
import type { BrokerFacts } from '../api/master-status.ts'
import { formatAddress } from '../config/address.ts'
import type { ActiveConfig } from './active-config.ts'
import type { ListeningSocket } from './listening-sockets.ts'
import type { WorkerProcess } from './workers/worker-process.ts'
import { BROKER_VERSION } from '../version.ts'

/** The broker in short, for `baton ls`. During a reload, a backend may be listed by two workers. */
export function brokerFacts(
  { settings, config, sockets }: ActiveConfig,
  workers: readonly Pick<WorkerProcess, 'backends' | 'connections'>[],
  kind: BrokerFacts['kind'],
  startedAt: string,
): BrokerFacts {
  const reports = workers.flatMap(({ backends }) => backends)
  const countOf = (service: string, state?: string) =>
    new Set(
      reports
        .filter((each) => each.service === service && (state === undefined || each.state === state))
        .map(({ id }) => id),
    ).size
  return {
    config: settings.file,
    kind,
    version: BROKER_VERSION,
    startedAt,
    listeners: [...sockets.listeners].map(([name, socket]) => ({ name, address: addressOf(socket) })),
    services: [...config.services.keys()].map((name) => ({
      name,
      backends: countOf(name),
      ready: countOf(name, 'ready'),
    })),
    connections: workers.reduce((sum, { connections }) => sum + connections, 0),
  }
}

/** As bound: with the port that the kernel has chosen for port 0. */
function addressOf({ address, fd }: ListeningSocket): string {
  if (address.kind === 'unix' || address.port !== 0 || fd.closed) return formatAddress(address)
  try {
    return formatAddress({ ...address, port: localAddress(fd.fd).port })
  } catch (error) {
    if (error instanceof NativeError) return formatAddress(address)
    throw error
  }
}
