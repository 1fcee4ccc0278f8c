import { dup, NativeError, type OwnedFd } from '@baton/native-sendmsg'

/** Everything that the next master needs, as the last one sent it. Owns the descriptors; the first is the operator's socket. */
export class KeptEstate {
  readonly estate: unknown
  readonly #fds: readonly OwnedFd[]

  constructor(estate: unknown, fds: readonly OwnedFd[]) {
    this.estate = estate
    this.#fds = fds
  }

  get operator(): OwnedFd {
    return this.#fds[0] as OwnedFd
  }

  /** Undefined if this process may open no more. */
  duplicates(): OwnedFd[] | undefined {
    const copies: OwnedFd[] = []
    try {
      for (const { fd } of this.#fds) copies.push(dup(fd))
      return copies
    } catch (error) {
      for (const copy of copies) copy.close()
      if (error instanceof NativeError) return undefined
      throw error
    }
  }

  close(): void {
    for (const fd of this.#fds) fd.close()
  }
}
