import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './process.ts'

/** A program from `test/programs`, as a managed service's command. */
export function program(name = 'http-backend.mjs'): string[] {
  return [process.execPath, join(root, 'test/programs', name)]
}

/** The same command with a wrapper between Baton and the app, as users write it: none of them forwards signals, or its parent's end. */
export const behind = {
  shell: (command: readonly string[]) => ['sh', '-c', `${quoted(command)}; true`],
  /** `npm start`, in `folder`, which becomes a package. */
  npm(command: readonly string[], folder: string): string[] {
    writeFileSync(
      join(folder, 'package.json'),
      JSON.stringify({ name: 'app', version: '1.0.0', scripts: { start: quoted(command) } }),
    )
    return ['npm', 'start', '--silent', '--prefix', folder]
  },
  /** Like tsx and nodemon. */
  loader: ([, ...args]: readonly string[]) => [
    process.execPath,
    '-e',
    `require('node:child_process').spawn(process.execPath, ${JSON.stringify(args)}, { stdio: 'inherit' })`,
  ],
  /** It closes all descriptors it does not know before it starts the app. */
  closing: (command: readonly string[]) => [
    'python3',
    '-c',
    `import subprocess; subprocess.run(${JSON.stringify(command)}, close_fds=True)`,
  ],
}

function quoted(command: readonly string[]): string {
  return command.map((word) => `"${word}"`).join(' ')
}
