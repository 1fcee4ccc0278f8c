/** Imports the master's and the worker's program without starting them, to check that all of their code is installed and loads in this Node. */
export async function loadPrograms(): Promise<void> {
  await Promise.all([
    import('./master/main.ts'),
    import('./worker/supervised-worker.ts'),
    import('./worker/admin/server.ts'),
  ])
}
