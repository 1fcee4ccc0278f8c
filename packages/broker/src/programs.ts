/** The master's program and the worker's, loaded and not started: whether all of their code is there, and makes sense to this Node. */
export async function loadPrograms(): Promise<void> {
  await Promise.all([import('./master/main.ts'), import('./worker/supervised-worker.ts')])
}
