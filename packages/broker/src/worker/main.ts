// The process of one worker: `main.js FORMAT`. Signals are for its master: a terminal sends Ctrl-C, Ctrl-\ and Ctrl-Z to the whole
// group, and a worker that ended by itself would be replaced, one that stopped would serve no client. Before anything else is loaded.
for (const signal of ['SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGTSTP'] as const)
  process.on(signal, () => {})

const { runWorker } = await import('./supervised-worker.ts')
runWorker(process.argv[2])
