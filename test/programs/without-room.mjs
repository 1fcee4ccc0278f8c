// An app that cannot write to its standard error, and says on standard output that a line was lost.
import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'

const { stderr } = process
const write = stderr.write.bind(stderr)
stderr.write = (line, done) =>
  write(line, (error) => {
    done(error)
    if (error) console.log(JSON.stringify({ msg: 'lost', code: error.code }))
  })

const backend = createBackend()
backend.attach(createServer())
await backend.ready()
