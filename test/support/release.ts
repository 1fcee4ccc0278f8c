import { copyFileSync, linkSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { root } from './process.ts'

const SDK = pathToFileURL(join(root, 'packages/backend-sdk/dist/index.js')).href

/** Answers with the name of its release, once the file `hold` next to it does not exist. */
const app = (name: string) => `
import { existsSync } from 'node:fs'
import { createServer } from 'node:http'
import { setTimeout } from 'node:timers/promises'
import { createBackend } from '${SDK}'

while (existsSync(new URL('hold', import.meta.url))) await setTimeout(5)
const backend = createBackend({ logger: false })
backend.attach(createServer((_request, response) => response.setHeader('x-pid', process.pid).end('${name}')))
await backend.ready()
process.once('SIGTERM', () => void backend.drain())
`

/** Release folders and the link `current` to one of them, like a deploy tool leaves them on a server. */
export class Releases {
  readonly folder: string
  readonly #config: Record<string, unknown>

  /** @param config of each release; relative paths are relative to the release */
  constructor(folder: string, config: Record<string, unknown>) {
    this.folder = folder
    this.#config = config
  }

  get current(): string {
    return join(this.folder, 'current')
  }

  path(name: string): string {
    return join(this.folder, 'releases', name)
  }

  /** Adds a release without using it yet. */
  add(name: string): string {
    const path = this.path(name)
    mkdirSync(path, { recursive: true })
    writeFileSync(join(path, 'app.mjs'), app(name))
    writeFileSync(join(path, 'baton.json'), JSON.stringify(this.#config))
    return path
  }

  /** Moves the link atomically. */
  use(name: string): void {
    moveLink(this.current, `releases/${name}`)
  }

  remove(name: string): void {
    rmSync(this.path(name), { recursive: true })
  }
}

export function moveLink(link: string, target: string): void {
  symlinkSync(target, `${link}.next`)
  renameSync(`${link}.next`, link)
}

/** A separate Node at `path`, which can be removed. */
export function installNode(path: string): void {
  mkdirSync(dirname(path), { recursive: true })
  try {
    linkSync(process.execPath, path)
  } catch {
    copyFileSync(process.execPath, path)
  }
}
