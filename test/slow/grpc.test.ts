// With more deploys.
process.env['DEPLOYS'] = '20'
await import('../grpc.test.ts')
