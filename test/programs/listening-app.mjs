// An HTTP server that knows nothing of Baton, for any runtime. Prints its port.
import { createServer } from 'node:http'
import process from 'node:process'

const server = createServer((_request, response) => response.end(`app ${process.pid}`))
server.listen(0, '127.0.0.1', () =>
  console.log(JSON.stringify({ msg: 'listens', port: server.address().port })),
)
