// Several test files in one process, one after another. They are listed in the environment, because the test library
// would turn arguments into names of folders.
for (const file of JSON.parse(process.env.TEST_FILES)) await import(file)
