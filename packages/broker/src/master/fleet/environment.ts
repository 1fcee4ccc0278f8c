import type { Definition } from './definition.ts'

/**
 * What the master's environment holds for the master alone. A backend that believed NOTIFY_SOCKET, LISTEN_FDS or
 * WATCHDOG_USEC to be its own would speak to systemd in the master's name (sd_notify(3), sd_listen_fds(3)).
 */
const PRIVATE =
  /^BATON_MASTER_|^(?:LISTEN_(?:PID|FDS|FDNAMES|PIDFDID)|WATCHDOG_(?:PID|USEC)|NOTIFY_SOCKET|BATON_VERSION)$/

export interface Introduction {
  /** Path of the control socket. */
  readonly socket: string
  /** ULID of the backend: new for each process. */
  readonly backend: string
  /** `Lifeline.environment`. */
  readonly master: NodeJS.ProcessEnv
}

/** The whole environment of one process. What the definition says wins over what the master was given, Baton's over both. */
export function environmentOf(
  definition: Definition,
  { socket, backend, master }: Introduction,
  inherited: NodeJS.ProcessEnv,
): NodeJS.ProcessEnv {
  return {
    ...Object.fromEntries(Object.entries(inherited).filter(([name]) => !PRIVATE.test(name))),
    ...definition.env,
    BATON_SOCKET: socket,
    BATON_SERVICE: definition.service,
    BATON_BACKEND_ID: backend,
    ...master,
  }
}
