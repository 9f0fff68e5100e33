-- $1 stream; $2 first seq; $3 hash before it; $4 bodies; $5 hashes; $6 seal; $7 effects; $8 recovering
SELECT append_batch($1, $2, $3, $4, $5, $6, $7, $8)
