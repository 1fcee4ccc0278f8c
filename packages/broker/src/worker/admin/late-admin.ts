import type { OwnedFd } from '@baton/native-sendmsg'
import type { Address } from '../../config/address.ts'
import type { Admin, AdminOptions } from './server.ts'

/**
 * The admin server, whose code is half of what a worker loads. It is loaded by `load` or `listen`. Operators can connect before: the kernel
 * queues them on the listening socket.
 */
export class LateAdmin implements Omit<Admin, 'pause'> {
  readonly #options: AdminOptions
  #loading: Promise<Admin> | undefined
  #listening: Promise<{ address: Address }> | undefined

  constructor(options: AdminOptions) {
    this.#options = options
  }

  /** Rejects if its code cannot be loaded. */
  load(): Promise<Admin> {
    this.#loading ??= import('./server.ts').then(({ createAdmin }) => createAdmin(this.#options))
    return this.#loading
  }

  /** Again after `pause`. */
  listen(): Promise<{ address: Address }> {
    this.#listening = this.load().then((admin) => admin.listen())
    return this.#listening
  }

  /** Resolves when nothing is accepted any longer. */
  async pause(): Promise<void> {
    ;(await this.#settled())?.pause()
  }

  replaceSocket(fd: OwnedFd): void {
    this.load().then(
      (admin) => admin.replaceSocket(fd),
      () => fd.close(),
    )
  }

  async drain(): Promise<void> {
    await (await this.#settled())?.drain()
  }

  async close(): Promise<void> {
    const admin = await this.#settled()
    if (admin === undefined) this.#options.socket?.close()
    else await admin.close()
  }

  /** It listens, or never will. Undefined if there is none. */
  async #settled(): Promise<Admin | undefined> {
    // The caller of `listen` has the error.
    await this.#listening?.catch(() => {})
    return this.#loading?.catch(() => undefined)
  }
}
