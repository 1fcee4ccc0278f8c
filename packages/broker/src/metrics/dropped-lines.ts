import { Counter, type Registry } from 'prom-client'

/** Registers the counter of log lines that could not be written, for the master or a worker. `count` must never decrease. */
export function droppedLines(registry: Registry, count: () => number = () => 0): void {
  const metric = new Counter({
    name: 'baton_log_lines_dropped_total',
    help: 'Lines of the log, and of kept output, dropped because they could not be written.',
    registers: [registry],
    collect() {
      metric.reset()
      metric.inc(count())
    },
  })
}
