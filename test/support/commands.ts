import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './process.ts'

/** A program out of `test/programs`, as a managed service has it. */
export function program(name = 'http-backend.mjs'): string[] {
  return [process.execPath, join(root, 'test/programs', name)]
}

/** The same command as users write it, with something between Baton and the app: none of them hands signals on, or tells of its parent's end. */
export const behind = {
  shell: (command: readonly string[]) => ['sh', '-c', `${quoted(command)}; true`],
  /** `npm start`, in a package that `folder` becomes. */
  npm(command: readonly string[], folder: string): string[] {
    writeFileSync(
      join(folder, 'package.json'),
      JSON.stringify({ name: 'app', version: '1.0.0', scripts: { start: quoted(command) } }),
    )
    return ['npm', 'start', '--silent', '--prefix', folder]
  },
  /** As tsx and nodemon do. */
  loader: ([, ...args]: readonly string[]) => [
    process.execPath,
    '-e',
    `require('node:child_process').spawn(process.execPath, ${JSON.stringify(args)}, { stdio: 'inherit' })`,
  ],
  /** It closes all descriptors that it does not know before it starts the app. */
  closing: (command: readonly string[]) => [
    'python3',
    '-c',
    `import subprocess; subprocess.run(${JSON.stringify(command)}, close_fds=True)`,
  ],
}

function quoted(command: readonly string[]): string {
  return command.map((word) => `"${word}"`).join(' ')
}
