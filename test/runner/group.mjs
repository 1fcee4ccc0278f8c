// Several test files in one process, one after another. They come in the environment: from the arguments the test
// library makes names of folders.
for (const file of JSON.parse(process.env.TEST_FILES)) await import(file)
