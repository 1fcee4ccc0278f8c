// With more deploys.
process.env['DEPLOYS'] = '20'
await import('../migrate-ws.test.ts')
