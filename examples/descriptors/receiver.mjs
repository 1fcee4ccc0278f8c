// Prints the content of every file that is passed to it: node receiver.mjs SOCKET
import { readFileSync } from 'node:fs'
import { acceptMany, EPOLLIN, listenUnix, OwnedFd, Poller, receiveMessage } from '@baton/native-sendmsg'

const [path] = process.argv.slice(2)
const listener = listenUnix({ path, mode: 0o600 })
const poller = new Poller()

poller.add(listener.fd, EPOLLIN, () => {
  for (const { fd } of acceptMany(listener.fd, 16).connections) receive(new OwnedFd(fd))
})
console.log('listening')

function receive(connection) {
  const watch = poller.add(connection.fd, EPOLLIN, () => {
    const message = receiveMessage(connection.fd, { size: 64, maxFds: 1 })
    if (message === undefined) return
    // Before the descriptor is closed.
    watch.remove()
    connection.close()
    const [file] = message.fds
    if (file === undefined) return
    console.log(`${String(message.bytes)}: ${readFileSync(file.fd, 'utf8')}`)
    file.close()
  })
}
