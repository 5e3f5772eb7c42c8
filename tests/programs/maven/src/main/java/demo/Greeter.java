package demo;

import java.io.IOException;
import java.io.InputStream;
import java.util.Properties;

/** Greets whom its arguments name. */
public class Greeter {
    public static void main(String[] args) throws IOException {
        Properties properties = new Properties();
        try (InputStream in = Greeter.class.getResourceAsStream("/greeting.properties")) {
            properties.load(in);
        }
        for (Name name : Name.all(args)) {
            System.out.println(properties.getProperty("greeting") + ", " + name);
        }
    }
}
