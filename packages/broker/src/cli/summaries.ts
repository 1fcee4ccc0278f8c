/** Every command of `baton`, in the order of `baton --help`, with its line there. Apart from the commands, whose code `--help` does not load. */
export const SUMMARIES = {
  run: 'run an unmodified app behind its own broker',
  init: 'write a baton.json for the app in this folder',
  start: 'run the broker',
  stop: 'drain and stop the broker',
  check: 'check the configuration',
  reload: 'load the new configuration and code',
  deploy: "roll out a service's managed backends, one at a time",
  scale: 'change the number of instances of a service',
  shift: 'give a version a share of the new connections',
  ls: 'list all running brokers of this user',
  status: 'show listeners, services and backends',
  top: 'watch services and backends live',
  events: 'print changes as they happen',
  logs: 'show what managed backends have printed',
  trace: 'show what happened to a connection',
  drain: 'drain a service or one of its backends',
  pause: 'hold the new connections of a service',
  resume: 'end the pause of a service',
  maintenance: 'answer new connections of a service with a page',
  systemd: 'print or install a systemd unit for the broker',
  completion: 'print a completion script for a shell',
} as const

export type CommandName = keyof typeof SUMMARIES
