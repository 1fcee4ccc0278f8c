// Passes an open file to the process that listens on a Unix socket: node sender.mjs SOCKET FILE
import { closeSync, openSync } from 'node:fs'
import { connectUnix, sendMessage } from '@baton/native-sendmsg'

const [path, file] = process.argv.slice(2)
const fd = openSync(file, 'r')
const connection = connectUnix(path)
// With at least one byte: a descriptor alone is lost on a stream.
sendMessage(connection.fd, { bytes: Buffer.from('a file'), fds: [fd] })
// The kernel has its own reference now.
closeSync(fd)
connection.close()
