CREATE TABLE functions (
    name TEXT PRIMARY KEY,
    source TEXT NOT NULL,
    location TEXT NOT NULL,
    timeout REAL NOT NULL,
    concurrency INTEGER NOT NULL,
    retry TEXT NOT NULL,
    created REAL NOT NULL,
    updated REAL NOT NULL
);
