import { MFD_CLOEXEC } from './abi.ts'
import { refuseNul } from './c-string.ts'
import { OwnedFd } from './descriptors.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'

/**
 * An empty file without a path that lives as long as somebody holds it (memfd_create(2)), CLOEXEC; the
 * caller owns it. `node:fs` reads and writes it by its number. `name` is only what `/proc/self/fd` shows;
 * NativeError EINVAL when it has more than 249 bytes.
 */
export function createMemoryFile(name: string): OwnedFd {
  refuseNul(name, 'the name')
  const fd = libc.memfd_create(name, MFD_CLOEXEC)
  if (fd === -1) throw new NativeError('memfd_create', lastErrno(), { fd: -1 })
  return new OwnedFd(fd)
}
