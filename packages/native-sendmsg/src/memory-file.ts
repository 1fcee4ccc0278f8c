import { MFD_CLOEXEC } from './abi.ts'
import { refuseNul } from './c-string.ts'
import { OwnedFd } from './descriptors.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'

/**
 * Creates an empty file without a path, which exists as long as a descriptor refers to it (memfd_create(2)),
 * CLOEXEC and owned by the caller. `node:fs` reads and writes it by number. `name` is only shown in
 * `/proc/self/fd`; NativeError EINVAL if it has more than 249 bytes.
 */
export function createMemoryFile(name: string): OwnedFd {
  refuseNul(name, 'the name')
  const fd = libc.memfd_create(name, MFD_CLOEXEC)
  if (fd === -1) throw new NativeError('memfd_create', lastErrno(), { fd: -1 })
  return new OwnedFd(fd)
}
