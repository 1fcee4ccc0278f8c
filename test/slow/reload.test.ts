// With every signal that would end a process that starts, and with listeners that leave no descriptor for the worker's sockets, for its channel,
// for the socketpair, or for themselves.
process.env['SIGNALS'] = 'SIGUSR2,SIGHUP,SIGTERM'
process.env['LISTENERS'] = '100,130,133,170'
await import('../reload.test.ts')
