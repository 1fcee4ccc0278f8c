// The example in packages/broker/README.md.
import { parseConfig, startWorker } from '@baton/broker'
import { pino } from 'pino'

const config = parseConfig({
  listeners: [{ name: 'web', listen: '127.0.0.1:8080', service: 'web' }],
  services: { web: { balance: 'p2c' } },
})
const worker = await startWorker(config, { logger: pino() }) // accepts connections from here on
console.log(worker.addresses.get('web'), worker.status().services)
await worker.drain(30_000) // stops accepting; clients still held after 30 s are rejected
