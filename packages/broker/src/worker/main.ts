// Entry point of a worker process: `main.js LOG_FORMAT`. Ignores signals meant for the master, before anything else is loaded: a
// terminal sends Ctrl-C, Ctrl-\ and Ctrl-Z to the whole group, but a worker that exited would be replaced, and a stopped one would
// serve no client.
for (const signal of ['SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGTSTP'] as const)
  process.on(signal, () => {})

const { keepCompiledCode } = await import('../compile-cache.ts')
keepCompiledCode()
const { runWorker } = await import('./supervised-worker.ts')
runWorker(process.argv[2])
