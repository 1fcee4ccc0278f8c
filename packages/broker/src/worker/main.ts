// The process of one worker: `main.js FORMAT`. Signals are for its master: a terminal sends Ctrl-C and Ctrl-\ to the whole group,
// and a worker that ended by itself would be replaced. Before anything else is loaded.
for (const signal of ['SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const)
  process.on(signal, () => {})

const { runWorker } = await import('./run.ts')
runWorker(process.argv[2])
