import { Counter, type Registry } from 'prom-client'

/** The counter of log lines that could not be written, which the master and each worker have. `count` never falls. */
export function droppedLines(registry: Registry, count: () => number = () => 0): void {
  const metric = new Counter({
    name: 'baton_log_lines_dropped_total',
    help: 'Lines of the log that were dropped because standard output or standard error did not take them.',
    registers: [registry],
    collect() {
      metric.reset()
      metric.inc(count())
    },
  })
}
